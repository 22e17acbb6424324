"""The networks: `Equiformer`, and EquiformerV2 and V3 as published."""
