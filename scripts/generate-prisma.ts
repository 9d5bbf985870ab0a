/** Generates the Prisma client from prisma/schema.prisma. Runs after every `npm ci`; needs no network. */
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))

const findPrisma = (): string | undefined => {
  try {
    return join(dirname(createRequire(import.meta.url).resolve('prisma/package.json')), 'build', 'index.js')
  } catch {
    return undefined
  }
}

const prisma = findPrisma()
if (prisma === undefined) {
  // npm ci --omit=dev: not a failure, since an image may copy the generated client from a build stage.
  console.error('The Prisma client was not generated, because the prisma package is missing (npm ci --omit=dev).')
  console.error('Copy src/generated/prisma from a full checkout, or run "npm ci" and then "npm prune --omit=dev".')
} else {
  // `generate` never runs the schema engine, but would download it. Any existing file stands in for it.
  const env = {
    ...process.env,
    PRISMA_SCHEMA_ENGINE_BINARY: process.execPath,
    PRISMA_HIDE_UPDATE_MESSAGE: '1',
    CHECKPOINT_DISABLE: '1',
  }
  const { status, stdout, stderr } = spawnSync(process.execPath, [prisma, 'generate', '--no-hints'], {
    cwd: ROOT,
    env,
    encoding: 'utf8',
  })
  if (status !== 0) {
    process.stderr.write(stdout + stderr)
    process.exitCode = 1
  }
}
