"""Shipped models, one file per family; each is a function of (input shape, outputs).

Models are initialised with torch's global generator.
"""
