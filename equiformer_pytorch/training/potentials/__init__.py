"""What trains potentials: data, loss, errors, report."""
