"""Why TLS failed, in few words."""

from __future__ import annotations

__all__ = ["tls_reason"]


def tls_reason(error: BaseException) -> str:
    """OpenSSL's name for it, and of a certificate that was refused here what is wrong with it, such as its host."""
    name: str = getattr(error, "reason", None) or str(error) or "handshake failed"
    refusal: str = getattr(error, "verify_message", None) or ""
    return f"{name} ({refusal.rstrip('.')})" if refusal else name
