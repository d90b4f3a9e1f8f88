"""Measured numbers, and how to get them again. Never part of the tests: a clock is no judge of correctness."""
