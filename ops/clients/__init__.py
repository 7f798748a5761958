"""Typed access to what runs elsewhere: settings in, typed results and typed errors out."""
