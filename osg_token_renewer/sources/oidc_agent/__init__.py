"""The source oidc-agent: refresh tokens that oidc-agent keeps."""
