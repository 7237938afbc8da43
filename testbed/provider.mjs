// The configuration of oidc-provider: a WLCG-like issuer of JWT access tokens (WLCG Common JWT Profiles 1.0).
import { randomBytes } from 'node:crypto';
import { Provider } from 'oidc-provider';
import { Store } from './state.mjs';

// oidc-provider grants scopes per resource, takes one resource a request, and requires a URI. Audiences on the grid are
// free strings, and a request may name several. So all grants are for this one resource, and the requested audiences
// (see requests.mjs) only become the token's "aud".
const RESOURCE = 'urn:osg-token-renewer:testbed';

export function createProvider(issuer, jwk, state) {
  const { settings } = state;
  const audiences = (ctx) => ctx.state.audiences ?? [settings.default_audience].flat();
  const isOpaque = (audience) => settings.opaque_audiences.includes('*') || settings.opaque_audiences.includes(audience);

  const provider = new Provider(issuer, {
    adapter: Store,
    jwks: { keys: [jwk] },
    cookies: { keys: [randomBytes(16).toString('hex')] },
    scopes: state.scopes,
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'none'],
    findAccount: (ctx, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
    rotateRefreshToken: () => settings.rotate,
    expiresWithSession: () => false,
    ttl: {
      AccessToken: () => settings.access_token_ttl,
      ClientCredentials: () => settings.access_token_ttl,
      DeviceCode: () => settings.device_code_ttl,
      IdToken: 3600,
      RefreshToken: 30 * 86400,
      Grant: 30 * 86400,
      Session: 86400,
      Interaction: 3600,
    },
    features: {
      devInteractions: { enabled: true },
      deviceFlow: { enabled: true },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      revocation: { enabled: true, allowedPolicy: (ctx, client, token) => token.clientId === client.clientId },
      registration: { enabled: true },
      registrationManagement: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => RESOURCE,
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx) => ({
          scope: state.scopes.join(' '),
          audience: audiences(ctx).join(' '),
          accessTokenFormat: audiences(ctx).some(isOpaque) ? 'opaque' : 'jwt',
        }),
      },
    },
    formats: {
      customizers: {
        jwt(ctx, token, { payload }) {
          const [first, ...others] = audiences(ctx);
          payload.aud = others.length ? [first, ...others] : first;
          payload['wlcg.ver'] = '1.0';
          payload.nbf = payload.iat + settings.nbf_offset;
          payload.exp += settings.exp_offset;
          payload.iat += settings.iat_offset;
        },
      },
    },
  });
  provider.on('server_error', (ctx, error) => console.error(error));
  return provider;
}
