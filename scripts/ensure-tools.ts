/** Finds the programs that tests need and npm cannot bring. Missing ones are installed from Debian packages when this process may do so
 *  (root, or sudo without a password); otherwise it stops with the one line to type. Starts no service. */
import { execFileSync, spawnSync } from 'node:child_process'

interface Tool {
  readonly program: string
  /** Arguments with which the program only says its version. */
  readonly probe: readonly string[]
  readonly debianPackage: string
}

const ALWAYS: readonly Tool[] = [
  { program: 'openssl', probe: ['version'], debianPackage: 'openssl' },
  { program: 'redis-server', probe: ['--version'], debianPackage: 'redis-server' },
  // Makes system calls of PostgreSQL fail.
  { program: 'strace', probe: ['-V'], debianPackage: 'strace' },
]

/** Only for those who ask for them by name. */
const ON_REQUEST: Readonly<Record<string, readonly Tool[]>> = {
  // A file system of our own, for npm run test:power-cut.
  fuse: [
    { program: 'fusermount', probe: ['-V'], debianPackage: 'fuse' },
    { program: '/usr/bin/python3', probe: ['-c', 'import fusepy'], debianPackage: 'python3-fusepy' },
  ],
}

const answers = (program: string, args: readonly string[]): boolean => spawnSync(program, args, { stdio: 'ignore' }).status === 0

const isMissing = ({ program, probe }: Tool): boolean => !answers(program, probe)

const install = (packages: readonly string[]): void => {
  const sudo = process.geteuid?.() === 0 ? [] : ['sudo', '-n']
  const mayInstall = answers('apt-get', ['--version']) && (sudo.length === 0 || answers('sudo', ['-n', 'true']))
  if (!mayInstall) return
  // RUNLEVEL=1 keeps a package that brings a service from starting it. Progress goes to standard error.
  const apt = (args: readonly string[]): void => {
    const [program, ...rest] = [...sudo, 'env', 'DEBIAN_FRONTEND=noninteractive', 'RUNLEVEL=1', 'apt-get', '-qq', ...args]
    execFileSync(program!, rest, { stdio: ['ignore', process.stderr, process.stderr] })
  }
  try {
    apt(['update'])
    apt(['install', '-y', '--no-install-recommends', ...packages])
  } catch {
    // apt has said why; the check below says what to type.
  }
}

const wanted = [...ALWAYS, ...process.argv.slice(2).flatMap((name) => ON_REQUEST[name] ?? [])]
const missing = wanted.filter(isMissing)
if (missing.length > 0) install(missing.map((tool) => tool.debianPackage))
const stillMissing = missing.filter(isMissing)
if (stillMissing.length > 0) {
  console.error(`Missing: ${stillMissing.map((tool) => tool.program).join(', ')}. On Debian or Ubuntu type:`)
  console.error(`  sudo apt-get install -y ${stillMissing.map((tool) => tool.debianPackage).join(' ')}`)
  process.exitCode = 1
}
