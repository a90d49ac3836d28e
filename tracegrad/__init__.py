"""tracegrad: a JIT-traced autograd compiler for Python."""
