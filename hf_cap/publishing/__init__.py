"""What leaves the machine or is looked at: the Hub, reports, heat maps."""
