"""IDIF (AAAI-25): one file a component of the paper's Figure 2."""
