#!/usr/bin/env node
// The `kme` command. OpenKME runs on Node.js 24; npm installs one beside it, so an older Node on the PATH only gets as far as this file.
// Plain JavaScript that old versions can read.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { constants } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const main = join(root, 'src', 'cli', 'kme.ts')
const isCurrent = Number(process.versions.node.split('.')[0]) >= 24

const findBundledNode = () => {
  const windows = process.platform === 'win32'
  const candidates = [
    join(root, 'node_modules', '.bin', 'node'),
    join(
      root,
      'node_modules',
      `node-${windows ? 'win' : process.platform}-${process.arch}`,
      'bin',
      windows ? 'node.exe' : 'node',
    ),
  ]
  return candidates.slice(windows ? 1 : 0).find((path) => existsSync(path))
}

const runWith = (node) => {
  const child = spawn(node, [main, ...process.argv.slice(2)], { stdio: 'inherit' })
  // Sent to this process alone, these must reach the one that does the work; from a terminal it gets them anyway.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.on('error', (error) => {
    console.error(`Cannot run ${node}: ${error.message}`)
    process.exitCode = 1
  })
  child.on('exit', (code, signal) => {
    process.exitCode = signal === null ? code : 128 + constants.signals[signal]
  })
}

if (isCurrent) {
  await import(new URL('../src/cli/kme.ts', import.meta.url))
} else {
  const node = findBundledNode()
  if (node !== undefined) {
    runWith(node)
  } else {
    console.error(`kme needs Node.js 24 or newer; this is ${process.version}, and no newer one is installed beside kme.`)
    console.error(`Run "npm ci" in ${root}, or install Node.js 24.`)
    process.exitCode = 1
  }
}
