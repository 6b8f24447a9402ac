"""Methods that substitute missing views, to which the paper compares View-wise Dropout (Figure 4)."""
