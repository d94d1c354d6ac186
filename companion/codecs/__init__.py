"""Codecs: pictures to real bytes, and the cells those bytes name."""
