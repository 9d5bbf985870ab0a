// Who may import whom. The tables are the rules; what follows turns them into entries for dependency-cruiser.

/** Slice: the slices it may use. */
const mayUse = {
  kernel: [],
  generated: [],
  config: ['kernel', 'bb84'], // and the types on every door, see below
  database: ['kernel'],
  redis: ['kernel'],
  http: ['kernel'],
  pki: ['kernel'],
  'embedded-postgres': ['kernel'],
  audit: ['kernel', 'database'],
  custody: ['kernel', 'database'],
  alarms: ['kernel', 'database', 'audit'],
  peer: ['kernel', 'generated', 'database', 'http', 'audit', 'key-store'],
  'key-store': ['kernel', 'database', 'audit', 'custody'],
  processes: ['kernel', 'database'],
  topology: ['kernel', 'database', 'http', 'audit', 'alarms', 'peer', 'processes'],
  'key-pool': ['kernel', 'database', 'audit', 'alarms', 'key-store', 'redis'],
  link: ['kernel', 'bb84', 'database', 'custody', 'key-store', 'key-pool', 'peer', 'processes', 'http', 'audit', 'alarms'],
  relay: ['kernel', 'bb84', 'key-store', 'key-pool', 'peer', 'link', 'topology', 'processes', 'http', 'audit', 'alarms'],
  delivery: ['kernel', 'generated', 'database', 'redis', 'http', 'audit', 'peer', 'key-store', 'key-pool'],
  // How keys are handed to neighbours is delivery's to say, and it knows nothing of this slice.
  interworking: ['kernel', 'generated', 'database', 'http', 'audit', 'key-store', 'delivery'],
  admin: [
    'kernel',
    'generated',
    'database',
    'http',
    'audit',
    'peer',
    'pki',
    'key-pool',
    'processes',
    'link',
    'delivery',
    'alarms',
    'topology',
  ],
  client: ['kernel'], // what SAEs import; it must not drag a KME along
  bb84: ['kernel', 'generated'], // the protocol as mathematics: pure functions, nothing that waits or connects
  'quantum-channel': ['kernel', 'bb84'],
  'device-emulator': ['kernel'], // and the frame codec of the link drivers, see below
  demo: ['kernel', 'pki', 'admin', 'link', 'embedded-postgres'], // runs the command line as child processes; see doors-only
}

/** Slices without a door: every file may be imported by those the table above lets in. */
const open = ['kernel', 'config', 'database', 'redis', 'http', 'bb84', 'generated']

/** npm package: the only files that import it. */
const wrappedIn = {
  pg: '^src/(database/|embedded-postgres/|.*/prisma-[^/]+[.]ts$)',
  '@prisma/[^/]+': '^src/(database/|.*/prisma-[^/]+[.]ts$)',
  ioredis: '^src/redis/',
  undici: '^src/(peer|alarms|interworking)/',
  jose: '^src/admin/',
  'node-forge': '^src/pki/',
  '@peculiar/x509': '^src/pki/',
  'reflect-metadata': '^src/pki/',
  'embedded-postgres': '^src/embedded-postgres/',
  express: '^src/(http/|.*routes[.]ts$)',
  commander: '^src/cli/',
  'rate-limiter-flexible': '^src/delivery/rate-limiter[.]ts$',
  pino: '^src/kernel/log[.]ts$',
  zod: '^src/config/',
  yaml: '^src/config/',
}

const FRAME_CODEC = '^src/link/drivers/frame-codec[.]ts$'
// The JSON of the KME-to-KME API: read and written by the peer routes of the slices that serve it.
const PEER_WIRE = '^src/peer/wire[.]ts$'
const DOOR = '^src/([^/]+)/\\1[.]ts$'
const slices = Object.keys(mayUse)
const closed = slices.filter((slice) => !open.includes(slice)).join('|')
const typeOnly = 'type-only'

const forbid = (name, comment, from, to = {}) => ({ name, comment, severity: 'error', from, to })

const arrows = slices.map((slice) => {
  const allowed = `^src/(${[slice, ...mayUse[slice]].join('|')})/`
  const exceptions = { config: [DOOR], 'device-emulator': [FRAME_CODEC] }[slice] ?? []
  return forbid(
    `arrows-of-${slice}`,
    `${slice} may use ${mayUse[slice].join(', ') || 'no other slice'}.`,
    { path: `^src/${slice}/` },
    { path: '^src/', pathNot: [allowed, ...exceptions] },
  )
})

const wrappers = Object.entries(wrappedIn).map(([name, where]) =>
  forbid(
    `wrapper-of-${name}`,
    `Only ${where} imports ${name}.`,
    { path: '^src/', pathNot: [where, '^src/generated/'] },
    { path: `(^|/)node_modules/(@types/)?${name}/` },
  ),
)

module.exports = {
  forbidden: [
    ...arrows,
    ...wrappers,
    forbid('unknown-slice', 'Add the new slice to the table in .dependency-cruiser.cjs.', {
      path: '^src/[^/]+/',
      pathNot: `^src/(${slices.join('|')}|cli)/`,
    }),
    forbid(
      'doors-only',
      'Enter a slice through the file that bears its name. Only compose.ts, the command line and the demo reach further.',
      // The demo composes a network as compose.ts composes a KME.
      { path: `^src/(${slices.join('|')})/`, pathNot: '^src/demo/' },
      { path: `^src/(${closed})/`, pathNot: ['^src/$1/', DOOR, FRAME_CODEC, PEER_WIRE] },
    ),
    forbid(
      'config-reads-types',
      'From other slices config takes the types of their options and no code.',
      { path: '^src/config/' },
      { path: '^src/', pathNot: '^src/(config|kernel|bb84)/', dependencyTypesNot: [typeOnly] },
    ),
    forbid(
      'root-is-a-leaf',
      'Only the command line imports the composition root.',
      { path: '^src/', pathNot: '^src/(cli/|compose[.]ts$)' },
      { path: '^src/compose[.]ts$' },
    ),
    forbid('cli-is-a-leaf', 'Nothing imports the command line.', { pathNot: '^src/cli/' }, { path: '^src/cli/' }),
    forbid('no-cycles', 'Files that import each other in a circle are one file.', {}, { circular: true }),
    forbid(
      'no-dead-files',
      'The program never reaches this file.',
      { path: '^src/cli/kme[.]ts$' },
      { path: '^src/', pathNot: '^src/generated/', reachable: false },
    ),
    forbid(
      'no-junk-drawers',
      'Name the thing, not the drawer.',
      {},
      { path: '^src/.*(^|/)(utils?|helpers?|common|shared|misc)(/|[.]ts$)' },
    ),
    forbid('src-without-tests', 'Fakes stay in test/.', { path: '^src/' }, { path: '^(test|bench|scripts)/' }),
    forbid('resolvable', 'The import does not resolve.', {}, { couldNotResolve: true }),
    forbid(
      'declared',
      'The package is missing in package.json.',
      { path: '^src/' },
      { dependencyTypes: ['npm-no-pkg', 'npm-unknown'] },
    ),
    forbid(
      'no-development-packages',
      'src runs without the development packages.',
      { path: '^src/' },
      { dependencyTypes: ['npm-dev'], dependencyTypesNot: [typeOnly] },
    ),
  ],
  options: {
    tsPreCompilationDeps: true, // sees type-only imports too
    tsConfig: { fileName: 'tsconfig.json' },
    doNotFollow: { path: 'node_modules' },
    // Prisma's generated code is not ours to judge.
    exclude: { path: '^src/generated/prisma/' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default', 'types'] },
  },
}
