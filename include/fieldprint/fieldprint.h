/* fieldprint: LLM inference with verified persistent memory. Includes the whole public API. */
#ifndef FIELDPRINT_FIELDPRINT_H
#define FIELDPRINT_FIELDPRINT_H
#include "fieldprint/anchor.h"
#include "fieldprint/audit.h"
#include "fieldprint/bench.h"
#include "fieldprint/device.h"
#include "fieldprint/engine.h"
#include "fieldprint/faults.h"
#include "fieldprint/key.h"
#include "fieldprint/ledger.h"
#include "fieldprint/model.h"
#include "fieldprint/receipts.h"
#include "fieldprint/status.h"
#include "fieldprint/system.h"
#include "fieldprint/workspace.h"
#endif
