"""``python -m equiformer_pytorch.cli`` is ``equiformer``."""

from equiformer_pytorch.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
