"""Files and leases that a kill at any moment leaves sound."""
