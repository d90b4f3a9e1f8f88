"""Runs in a store, ended or under way: what was asked for, what became of it, what the next one will cost."""
