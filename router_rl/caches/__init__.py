"""Which experts to hold in memory: rules of thumb, their clairvoyant bound, and a policy search."""
