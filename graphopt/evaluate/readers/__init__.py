"""Readers of labelled sets, one file format each."""
