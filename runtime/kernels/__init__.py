"""Kernels: functions of a compiled network, one family of operators per file, written as TIR."""
