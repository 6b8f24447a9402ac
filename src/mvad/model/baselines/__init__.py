"""Methods that stand beside IDIF, behind the same protocol."""
