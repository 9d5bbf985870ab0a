/** A demo directory keeps its network's shape: its databases and certificates are those of these KMEs. */
import { existsSync, readFileSync } from 'node:fs'
import type { Random } from '../kernel/random.ts'
import { replacePublic } from '../pki/certificate-files.ts'
import { DEFAULT_SHAPE, type DemoFiles, type DemoShape } from './layout.ts'

/** @returns the shape of the network in the directory; undefined when there is none yet. */
export const keptShape = (files: Pick<DemoFiles, 'shape' | 'pki'>): DemoShape | undefined => {
  if (existsSync(files.shape)) return JSON.parse(readFileSync(files.shape, 'utf8')) as DemoShape
  // Made before there were others.
  return existsSync(files.pki) ? DEFAULT_SHAPE : undefined
}

/** @throws Error when the directory holds a network of another shape. */
export const keepShape = async (files: DemoFiles, shape: DemoShape, random: Random): Promise<void> => {
  const kept = keptShape(files)
  if (kept !== undefined && (kept.sites !== shape.sites || kept.ring !== shape.ring)) {
    throw new Error(
      `${files.directory} holds a demo network of ${describeShape(kept)}. Start with --reset to replace it by ${describeShape(shape)}, ` +
        'or choose another KME_DEMO_DIR.',
    )
  }
  await replacePublic(files.shape, `${JSON.stringify({ sites: shape.sites, ring: shape.ring })}\n`, random)
}

export const describeShape = ({ sites, ring }: DemoShape): string => `${sites} KMEs in a ${ring ? 'ring' : 'line'}`
