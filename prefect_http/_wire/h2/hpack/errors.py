"""The two ways in which a block of header fields can be wrong. Pure."""

from __future__ import annotations


class HPACKError(Exception):
    """A block that cannot be decoded.

    The dynamic table is lost with it, so this is an error of the connection (COMPRESSION_ERROR; RFC 9113 section 4.3).
    """


class HeaderListTooLarge(Exception):
    """A header list larger than what the decoder accepts.

    The whole block has been processed, so the dynamic table is in step with the peer's, and only the block's stream is
    affected.
    """
