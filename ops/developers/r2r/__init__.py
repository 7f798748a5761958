"""What R2R itself knows developers by: users of their own, members of collections.

Everything here follows from the inventory; R2R and its database are asked and told over SSH.
"""
