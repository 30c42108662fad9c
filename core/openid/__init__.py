"""OpenID Connect and OAuth 2.0: a provider, its tokens, and how they are had."""
