/** The import rules catch what they are meant to catch: each forbidden import, planted in a small copy of the tree, is reported. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

const FORBIDDEN: readonly [importer: string, imported: string, rule: string][] = [
  ['src/kernel/clock.ts', '../database/database.ts', 'arrows-of-kernel'],
  ['src/database/database.ts', '../audit/audit.ts', 'arrows-of-database'],
  ['src/key-store/key-store.ts', '../key-pool/key-pool.ts', 'arrows-of-key-store'],
  ['src/link/link.ts', '../delivery/delivery.ts', 'arrows-of-link'],
  ['src/delivery/delivery.ts', '../link/link.ts', 'arrows-of-delivery'],
  ['src/delivery/delivery.ts', '../interworking/interworking.ts', 'arrows-of-delivery'],
  ['src/device-emulator/device-emulator.ts', '../link/drivers/tcp-driver.ts', 'arrows-of-device-emulator'],
  ['src/key-pool/memory-key-pool.ts', '../key-store/unit-bits.ts', 'doors-only'],
  ['src/admin/admin.ts', '../pki/authorities.ts', 'doors-only'],
  ['src/config/config.ts', '../key-pool/key-pool.ts', 'config-reads-types'],
  ['src/admin/routes.ts', '../compose.ts', 'root-is-a-leaf'],
  ['src/compose.ts', './cli/kme.ts', 'cli-is-a-leaf'],
  ['src/teleport/teleport.ts', '../kernel/clock.ts', 'unknown-slice'],
  ['src/relay/relay.ts', '../delivery/delivery.ts', 'arrows-of-relay'],
  ['src/http/listener.ts', '../kernel/clock.ts', 'no-dead-files'],
  ['src/http/listener.ts', './utils.ts', 'no-junk-drawers'],
  ['src/audit/audit.ts', '../../test/fake-audit.ts', 'src-without-tests'],
  ['src/link/supervisor.ts', './missing.ts', 'resolvable'],
  ['src/pki/authorities.ts', './authorities.ts', 'no-cycles'],
  ['src/audit/chain.ts', 'pg', 'wrapper-of-pg'],
  ['src/audit/chain.ts', '@prisma/client', 'wrapper-of-@prisma/[^/]+'],
  ['src/delivery/delivery.ts', 'undici', 'wrapper-of-undici'],
  ['src/http/listener.ts', 'jose', 'wrapper-of-jose'],
  ['src/http/listener.ts', '@peculiar/x509', 'wrapper-of-@peculiar/x509'],
  ['src/http/listener.ts', 'node-forge', 'wrapper-of-node-forge'],
  ['src/delivery/delivery.ts', 'express', 'wrapper-of-express'],
  ['src/admin/admin.ts', 'pino', 'wrapper-of-pino'],
  ['src/admin/admin.ts', 'zod', 'wrapper-of-zod'],
  ['src/admin/admin.ts', 'supertest', 'no-development-packages'],
]

const ALLOWED: readonly [importer: string, imported: string][] = [
  ['src/cli/kme.ts', '../compose.ts'],
  ['src/cli/kme.ts', '../pki/authorities.ts'],
  ['src/cli/kme.ts', 'commander'],
  ['src/compose.ts', './key-store/prisma-key-store.ts'],
  ['src/key-store/prisma-key-store.ts', '@prisma/client'],
  ['src/key-store/prisma-key-store.ts', 'pg'],
  ['src/key-store/prisma-key-store.ts', '../database/group-commit.ts'],
  ['src/delivery/routes.ts', 'express'],
  ['src/device-emulator/device-end.ts', '../link/drivers/frame-codec.ts'],
  ['src/config/schema.ts', 'zod'],
]

interface Violation {
  readonly type: string
  readonly from: string
  readonly to: string
  readonly rule: { readonly name: string }
}

let directory: string

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'openkme-arrows-'))
  await symlink(join(ROOT, 'node_modules'), join(directory, 'node_modules'))
})

afterAll(() => rm(directory, { recursive: true, force: true }))

const cruise = async (imports: readonly (readonly string[])[]): Promise<string[]> => {
  const sources = new Map<string, string[]>()
  for (const [importer, imported] of imports) {
    sources.set(importer!, [...(sources.get(importer!) ?? []), `import '${imported!}'`])
    const target = join(dirname(importer!), imported!)
    if (imported!.startsWith('.') && !imported!.endsWith('missing.ts') && !sources.has(target)) sources.set(target, [])
  }
  await rm(join(directory, 'src'), { recursive: true, force: true })
  for (const [path, lines] of sources) {
    await mkdir(join(directory, dirname(path)), { recursive: true })
    await writeFile(join(directory, path), [...lines, 'export const here = true', ''].join('\n'))
  }
  for (const file of ['tsconfig.json', 'package.json']) {
    await rm(join(directory, file), { force: true })
    await symlink(join(ROOT, file), join(directory, file))
  }
  const cruiser = join(ROOT, 'node_modules/dependency-cruiser/bin/dependency-cruise.mjs')
  const args = [cruiser, '--config', join(ROOT, '.dependency-cruiser.cjs'), '--output-type', 'json', 'src']
  const { stdout, stderr } = spawnSync(process.execPath, args, { cwd: directory, encoding: 'utf8' })
  if (stdout === '') throw new Error(stderr)
  const { summary } = JSON.parse(stdout) as { summary: { violations: Violation[] } }
  return summary.violations.map(({ type, from, to, rule }) => `${type === 'reachability' ? to : from}: ${rule.name}`)
}

describe('the import rules', () => {
  let found: string[]
  beforeAll(async () => {
    found = await cruise(FORBIDDEN)
  })

  it.each(FORBIDDEN)('%s must not import %s', (importer, _imported, rule) => {
    expect(found).toContain(`${importer}: ${rule}`)
  })

  it('let through what the design allows', async () => {
    const complaints = await cruise(ALLOWED)
    expect(complaints.filter((complaint) => !complaint.endsWith('no-dead-files'))).toEqual([])
  })
})
