"""Shipped models, a file a family: each is a function of (input shape, outputs).

Initialisation is drawn from torch's global generator.
"""
