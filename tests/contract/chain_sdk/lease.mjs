// A tenant and a provider who use Akash's own SDK against the chain whose endpoints come as arguments:
//   node lease.mjs RPC GRPC REST
// Prints one JSON object of what the SDK saw. Mnemonics are well-known test vectors.
import { createChainNodeSDK, createStargateClient, generateManifest, generateManifestVersion } from "@akashnetwork/chain-sdk";

const [rpc, grpc, rest] = process.argv.slice(2);
const MNEMONICS = {
  tenant: "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about",
  provider: "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo wrong",
};
const DSEQ = 7n;
const GPU = "vendor/nvidia/model/a100";

async function person(name) {
  const signer = createStargateClient({
    baseUrl: rpc,
    signerMnemonic: MNEMONICS[name],
    stargateOptions: { broadcastPollIntervalMs: 50 },
  });
  const { address } = await signer.getAccount();
  const answer = await fetch(`${rest}/faucet`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ address, coins: ["100000000uakt", "100000000uact"] }),
  });
  if (!answer.ok) throw new Error(`faucet: ${answer.status} ${await answer.text()}`);
  return { address, signer, sdk: createChainNodeSDK({ query: { baseUrl: grpc }, tx: { signer } }) };
}

const sdl = {
  version: "2.0",
  services: { web: { image: "nginx:1.27", expose: [{ port: 80, as: 80, to: [{ global: true }] }] } },
  profiles: {
    compute: {
      web: {
        resources: {
          cpu: { units: 1 },
          memory: { size: "512Mi" },
          storage: { size: "1Gi" },
          gpu: { units: 1, attributes: { vendor: { nvidia: [{ model: "a100" }] } } },
        },
      },
    },
    placement: { anywhere: { pricing: { web: { denom: "uact", amount: 1000 } } } },
  },
  deployment: { web: { anywhere: { profile: "web", count: 1 } } },
};

const seen = {};
const tenant = await person("tenant");
const provider = await person("provider");
seen.tenant = tenant.address;
seen.provider = provider.address;

await provider.sdk.akash.provider.v1beta4.createProvider({
  owner: provider.address,
  hostUri: "https://provider.example.test:8443",
  attributes: [{ key: `capabilities/gpu/${GPU}`, value: "true" }],
});

const manifest = generateManifest(sdl);
if (!manifest.ok) throw new Error(`the SDK's own SDL check: ${JSON.stringify(manifest.value)}`);
const deposit = (amount) => ({ amount: { denom: "uact", amount }, sources: [1] });
await tenant.sdk.akash.deployment.v1beta4.createDeployment({
  id: { owner: tenant.address, dseq: DSEQ },
  groups: manifest.value.groupSpecs,
  hash: await generateManifestVersion(manifest.value.groups),
  deposit: deposit("5000000"),
});

const orders = await provider.sdk.akash.market.v1beta5.getOrders({ filters: { owner: tenant.address, state: "open" } });
const order = orders.orders[0];
seen.orders = orders.orders.length;
await provider.sdk.akash.market.v1beta5.createBid({
  id: { ...order.id, provider: provider.address, bseq: 0 },
  price: { denom: "uact", amount: "12.5" },
  deposit: deposit("500000"),
  resourcesOffer: order.spec.resources.map(({ resource, count }) => ({ resources: resource, count })),
});

const { bids } = await tenant.sdk.akash.market.v1beta5.getBids({ filters: { owner: tenant.address, dseq: DSEQ } });
seen.bids = bids.map(({ bid }) => ({ provider: bid.id.provider, price: bid.price, state: bid.state }));
await tenant.sdk.akash.market.v1beta5.createLease({ bidId: bids[0].bid.id });

const { leases } = await tenant.sdk.akash.market.v1beta5.getLeases({ filters: { owner: tenant.address, state: "active" } });
seen.leases = leases.map(({ lease }) => ({ dseq: lease.id.dseq.toString(), price: lease.price, provider: lease.id.provider }));

// What the chain refuses reaches the SDK's user with the chain's code.
try {
  await tenant.sdk.akash.market.v1beta5.createLease({ bidId: bids[0].bid.id });
} catch (error) {
  seen.refused = String(error.message);
}
const paged = await tenant.sdk.cosmos.bank.v1beta1.getAllBalances({ address: tenant.address });
seen.denoms = paged.balances.map(({ denom }) => denom);
await tenant.signer.disconnect();
await provider.signer.disconnect();
console.log(JSON.stringify(seen, (_, value) => (typeof value === "bigint" ? value.toString() : value)));
process.exit(0);
