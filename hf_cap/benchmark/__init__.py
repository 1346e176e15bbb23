"""The benchmark: the cells of a matrix, run one by one, and what their results say together."""
