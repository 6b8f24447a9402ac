"""The format of rendered folders, shared by the code that writes them and the code that packs them."""
