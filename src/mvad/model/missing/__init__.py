"""What other people do about missing views (the paper's Figure 4): put something in their place."""
