// The issuer's state: its settings, faults and counts, and the tokens and clients that it stores.

export const DEFAULT_SCOPES = [
  'openid', 'profile', 'offline_access', 'wlcg.groups',
  'compute.read', 'compute.create', 'compute.modify', 'compute.cancel',
  'storage.read:/', 'storage.create:/', 'storage.modify:/', 'storage.stage:/',
  'condor:/READ', 'condor:/WRITE', 'condor:/ADVERTISE_STARTD', 'condor:/ADVERTISE_MASTER',
];

const DEFAULT_SETTINGS = {
  latency_ms: 0,              // delay of each request
  access_token_ttl: 3600,     // seconds
  device_code_ttl: 300,       // seconds
  device_interval: 1,         // seconds between two polls of a device; the usual 5 would only slow down tests
  rotate: false,              // each refresh replaces the refresh token; the use of an old one ends the whole grant
  revoke_previous: false,     // each refresh revokes the grant's earlier (opaque) access tokens
  narrow_on_refresh: false,   // a refresh for fewer scopes narrows the refresh token for good
  bind_audience: false,       // a refresh binds the refresh token to the requested audience
  opaque_audiences: [],       // audiences whose access tokens are opaque; ["*"] is all
  default_audience: 'https://wlcg.cern.ch/jwt/v1/any',
  ignore_scope: false,        // grant all scopes of the client, whatever the request asks for
  ignore_audience: false,     // grant the default audience, whatever the request asks for
  refuse_blank_scope: false,  // answer "scope=" and "scope=+" with invalid_scope; otherwise ignore them
  raw_basic: false,           // take HTTP Basic credentials that are not form-encoded (RFC 6749 section 2.3.1 wants the encoding)
  registration_without_scope: false, // leave "scope" out of the answer to a registration
  omit_expires_in: false,     // leave "expires_in" out of the token answer
  nbf_offset: 0,              // seconds added to the claims of the same name
  exp_offset: 0,
  iat_offset: 0,
  date_offset: 0,             // seconds added to the Date header of each answer
};

// The members of answers that only the client may know.
const SECRETS = ['access_token', 'id_token', 'refresh_token', 'device_code', 'client_secret', 'registration_access_token'];

const DEFAULT_CLIENT = {
  application_type: 'native',
  redirect_uris: ['http://localhost:4242'],
  response_types: ['code'],
  grant_types: ['authorization_code', 'refresh_token', 'client_credentials', 'urn:ietf:params:oauth:grant-type:device_code'],
};

/** Completes the metadata of a client from the configuration or the administration. */
export function completeClient(metadata) {
  if (!metadata.client_id) throw new RangeError('a client needs a client_id');
  const client = { ...DEFAULT_CLIENT, ...metadata };
  // oidc-provider refuses response types and redirect URIs without a grant type that uses them.
  if (!client.grant_types.includes('authorization_code')) Object.assign(client, { response_types: [], redirect_uris: [], ...metadata });
  return client;
}

export class State {
  settings = { ...DEFAULT_SETTINGS };

  faults = [];

  // For each fault, the functions that release the requests which it holds.
  held = new Map();

  constructor(scopes) {
    this.scopes = scopes ?? DEFAULT_SCOPES;
    this.inFlight = 0;
    this.resetCounts();
  }

  /** Changes some settings. An unknown name is an error, because a test with a typing error must not pass. */
  change(changes) {
    for (const [name, value] of Object.entries(changes)) {
      const known = DEFAULT_SETTINGS[name];
      if (known === undefined) throw new RangeError(`unknown setting ${name}`);
      if (name !== 'default_audience' && typeof value !== typeof known) throw new RangeError(`setting ${name} must be of type ${typeof known}`);
    }
    Object.assign(this.settings, changes);
    return this.settings;
  }

  addFault(fault) {
    if (!fault.endpoint) throw new RangeError('a fault needs an endpoint ("*" for all)');
    this.faults.push({ ...fault });
  }

  /** Returns the first fault that applies, and uses up one of its `times`. */
  takeFault(request) {
    const applies = (fault) => (fault.endpoint === '*' || fault.endpoint === request.endpoint)
      && ['client_id', 'grant_type'].every((key) => fault[key] === undefined || fault[key] === request[key])
      && fault.times !== 0;
    const fault = this.faults.find(applies);
    if (fault?.times) fault.times -= 1;
    return fault;
  }

  /** Resolves when the faults are cleared, or when the fault holds as many requests as it has to `gather`. */
  hold(fault) {
    return new Promise((resolve) => {
      const waiting = [...(this.held.get(fault) ?? []), resolve];
      this.held.set(fault, waiting);
      if (waiting.length === fault.gather) this.release(fault);
    });
  }

  release(fault) {
    for (const resolve of this.held.get(fault)) resolve();
    this.held.delete(fault);
  }

  clearFaults() {
    this.faults = [];
    for (const fault of this.held.keys()) this.release(fault);
  }

  /** Remembers the secrets in an answer by the name of their member. */
  handOut(answer) {
    for (const name of SECRETS) if (answer[name]) (this.secrets[name] ??= new Set()).add(answer[name]);
  }

  resetCounts() {
    this.secrets = {};
    this.counts = { total: 0, endpoints: {}, grants: {}, connections: 0, max_in_flight: this.inFlight };
  }

  count({ endpoint, grant_type: grantType }) {
    const add = (where, key) => { where[key] = (where[key] ?? 0) + 1; };
    add(this.counts, 'total');
    add(this.counts.endpoints, endpoint);
    if (grantType) add(this.counts.grants, grantType);
  }
}

/** Storage for oidc-provider. Its own in-memory adapter keeps only 1000 entries: a benchmark needs more. */
export class Store {
  // Expired entries stay for another minute, so that the issuer can answer "expired" instead of "unknown".
  static GRACE_MS = 60_000;

  static models = new Map();

  constructor(model) {
    this.entries = new Map();
    Store.models.set(model, this.entries);
  }

  /** All payloads of a model that have not expired. */
  static all(model) {
    const alive = [...(Store.models.get(model) ?? [])].filter(([, entry]) => entry.expires > Date.now());
    return alive.map(([, entry]) => entry.payload);
  }

  /** One stored payload; changes to it stay. */
  static live(model, id) { return Store.models.get(model)?.get(id)?.payload; }

  /** Forgets all entries of some models for which `matches(payload)` is true; returns how many. */
  static forget(models, matches) {
    let forgotten = 0;
    for (const model of models) {
      for (const [id, { payload }] of Store.models.get(model) ?? []) {
        if (matches(payload)) forgotten += Number(Store.models.get(model).delete(id));
      }
    }
    return forgotten;
  }

  static sweep() {
    for (const entries of Store.models.values()) {
      for (const [id, { expires }] of entries) if (expires + Store.GRACE_MS <= Date.now()) entries.delete(id);
    }
  }

  async upsert(id, payload, expiresIn) {
    const expires = typeof expiresIn === 'number' ? Date.now() + expiresIn * 1000 : Infinity;
    this.entries.set(id, { payload, expires });
  }

  async find(id) {
    const entry = this.entries.get(id);
    return entry && entry.expires + Store.GRACE_MS > Date.now() ? entry.payload : undefined;
  }

  async findBy(key, value) {
    for (const { payload, expires } of this.entries.values()) {
      if (payload[key] === value && expires + Store.GRACE_MS > Date.now()) return payload;
    }
    return undefined;
  }

  findByUid(uid) { return this.findBy('uid', uid); }

  findByUserCode(userCode) { return this.findBy('userCode', userCode); }

  async consume(id) { this.entries.get(id).payload.consumed = Math.floor(Date.now() / 1000); }

  async destroy(id) { this.entries.delete(id); }

  async revokeByGrantId(grantId) {
    for (const [id, { payload }] of this.entries) if (payload.grantId === grantId) this.entries.delete(id);
  }
}
