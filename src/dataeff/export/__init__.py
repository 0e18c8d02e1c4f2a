"""Runs in the form that other programs take."""
