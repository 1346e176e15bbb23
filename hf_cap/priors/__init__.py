"""Where priors come from: sources, their fusion, and the audit of what they say."""
