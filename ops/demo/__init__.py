"""The proof on the screen: a real deploy, real documents, an allowed and a refused machine."""
