"""The start at the geometry: a prior over the SIDs of an index by the query's sentence vector."""
