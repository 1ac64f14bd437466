"""Study files that ship with the product, each ready to run: ``sensitivity run NAME``."""
