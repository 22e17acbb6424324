"""What stands under everything: checks of arguments, constants that no cast rounds, files."""
