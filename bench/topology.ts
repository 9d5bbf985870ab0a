/** Prints how fast networks of 10, 100 and 1,000 KMEs agree on their topology, and what it costs (docs/topology.md).
 *  Simulated in this process: a message takes 5 to 50 ms, every KME has four links on average. */
import { measureConvergence, type Convergence } from '../test/topology/measure-convergence.ts'

const SIZES = [10, 100, 1000]
const SEED = 1

const columns = ['KMEs', 'links', 'event', 'converged after', 'messages', 'statements', 'comparisons']
const lineOf = (cells: readonly (string | number)[]): string => cells.map((cell) => String(cell).padStart(15)).join('')

console.log(lineOf(columns))
for (const size of SIZES) {
  const { nodes, links, start, failure } = await measureConvergence(size, SEED)
  const show = (event: string, { ms, messages, statements, comparisons }: Convergence): void =>
    console.log(lineOf([nodes, links, event, `${(ms / 1000).toFixed(2)} s`, messages, statements, comparisons]))
  show('start', start)
  show('a link fails', failure)
}
