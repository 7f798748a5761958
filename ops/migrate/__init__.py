"""Points from one Qdrant to another, with proof that they arrived. Never over what exists."""
