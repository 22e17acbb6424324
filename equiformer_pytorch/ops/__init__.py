"""What is done with edges: pure functions, each with its contract, which a kernel may take over (:mod:`.dispatch`)."""
