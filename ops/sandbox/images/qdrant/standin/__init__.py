"""A stand-in for the Qdrant server, on Qdrant's own engine as a library (qdrant-edge-py).

For machines that cannot pull the real image. It answers as the version below does, and says so
in its log; tests/contract holds the two to the same answers. Never deployed to a real host.
"""

VERSION = "1.19.0"
TITLE = "qdrant - vector search engine"
