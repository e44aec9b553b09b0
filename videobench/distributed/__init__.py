"""Processes: how they start, find each other and exchange small things."""
