"""Complete programs around `equiformer_pytorch`; they need the extra `examples`."""
