"""The language model behind one protocol: local, served, stored, or a stand-in."""
