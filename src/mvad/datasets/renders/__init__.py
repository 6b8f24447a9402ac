"""The format of rendered folders, known to those who write it and those who pack it."""
