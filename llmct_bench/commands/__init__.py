"""The parts of the command line: thin layers over the public API."""
