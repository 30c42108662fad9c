// An OpenID Connect provider for tests.outside.oidc: node oidc_provider.mjs PORT KEYS.json REDIRECT
// KEYS.json is its private key set, REDIRECT where the manager's console takes people back. It logs
// a line for each request to its keys.
import { readFileSync } from 'node:fs';
import { Provider } from 'oidc-provider';

const [port, keys, redirect] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const secret = 'secret-of-the-client';
const machine = { grant_types: ['client_credentials'], redirect_uris: [], response_types: [] };
const device = 'urn:ietf:params:oauth:grant-type:device_code';
const groups = { somebody: ['operators'], other: ['elsewhere'] };

// What a token is for: its audience, and how long it is good.
const resources = {
  'urn:hawker': { audience: 'hawker', accessTokenTTL: 600 },
  'urn:hawker:short': { audience: 'hawker', accessTokenTTL: 1 },
  'urn:other': { audience: 'other', accessTokenTTL: 600 },
};

const provider = new Provider(issuer, {
  jwks: JSON.parse(readFileSync(keys)),
  scopes: ['openid', 'groups', 'hawker.read', 'hawker.list', 'elsewhere'],
  claims: { openid: ['sub'], groups: ['groups'] },
  findAccount: (_context, sub) => ({
    accountId: sub,
    claims: () => ({ sub, groups: groups[sub] ?? [] }),
  }),
  extraTokenClaims: (_context, token) => ({ groups: groups[token.accountId] ?? [] }),
  issueRefreshToken: (_context, client) => client.grantTypeAllowed('refresh_token'),
  clients: [
    { client_id: 'ci', client_secret: secret, ...machine },
    // Named as the audience is, so that its ID tokens have the right one.
    { client_id: 'hawker', client_secret: secret, redirect_uris: [`${issuer}/back`] },
    { client_id: 'console', client_secret: 'secret-of-the-console', redirect_uris: [redirect] },
    {
      client_id: 'cli',
      token_endpoint_auth_method: 'none',
      application_type: 'native',
      grant_types: [device, 'refresh_token'],
      redirect_uris: [],
      response_types: [],
    },
  ],
  features: {
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    devInteractions: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_context, name) => ({
        scope: 'hawker.read hawker.list elsewhere',
        accessTokenFormat: 'jwt',
        ...resources[name],
      }),
    },
  },
});
provider.use(async (context, next) => {
  if (context.path === '/jwks') console.log('keys');
  await next();
});
provider.listen(Number(port), '127.0.0.1');
