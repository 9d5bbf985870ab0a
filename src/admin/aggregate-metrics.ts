/** One page of metrics out of those of several processes of a KME. Each metric says how: counters are added up, a gauge that
 *  means the same in every process is taken once. */
import { AggregatorRegistry } from 'prom-client'
import type { MetricValues } from './admin.ts'

/** @param processes what `values` gave at each process; it may have travelled as JSON. */
export const aggregateMetrics = (processes: readonly MetricValues[]): Promise<string> =>
  AggregatorRegistry.aggregate([...processes]).metrics()
