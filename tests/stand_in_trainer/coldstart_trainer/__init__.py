"""In the place of the trainer where this folder is first on PYTHONPATH: carries out any order."""
