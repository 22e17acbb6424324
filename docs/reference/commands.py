# %% [markdown]
# # Commands
#
# `pip install "equiformer-pytorch[train]"` brings the command `equiformer`. What its parts take, in their own words:

# %%
from equiformer_pytorch.cli.main import main

for command in ("train", "evaluate", "info"):
    try:
        main([command, "--help"])
    except SystemExit:  # as every --help ends
        print("\n" + 100 * "─" + "\n")
